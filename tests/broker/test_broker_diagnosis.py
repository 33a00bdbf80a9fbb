import pytest

from app.broker.diagnosis import cause_of_exit, last_words


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("java.io.IOException: No space left on device", "disk is full"),
        ("java.net.BindException: Address already in use", "port was taken"),
        ("KafkaException: Failed to acquire lock on file .lock in /d", "another Kafka"),
        ("Error occurred: Could not reserve enough space for 393216KB object heap", "memory"),
        ("java.lang.UnsupportedClassVersionError: kafka/Kafka", "too old"),
        ("java.nio.file.AccessDeniedException: /d/meta.properties", "may not write"),
        (
            "Caused by: org.apache.kafka.common.errors.UnsupportedVersionException: "
            "Can't read version 4 of BrokerEndpoint",
            "newer Kafka",
        ),
    ],
)
def test_a_known_cause_says_what_to_do(said, advice):
    known = cause_of_exit(f"2026-01-01T00:00:00.000Z INFO  X fine\n{said}\n\tat A.b(C.java:1)\n")
    assert known is not None
    assert advice in known


def test_an_unknown_cause_is_not_guessed():
    assert cause_of_exit("2026-01-01T00:00:00.000Z ERROR KafkaServer boom") is None


def test_the_last_error_is_quoted_rather_than_the_stack_trace_below_it():
    log = (
        "2026-01-01T00:00:00.000Z ERROR A first\n"
        "2026-01-01T00:00:01.000Z FATAL B Exiting Kafka due to fatal exception\n"
        "java.lang.RuntimeException: Stored node id 7 is not 1\n"
        "\tat x.Y.z(Y.java:1)\n"
        "2026-01-01T00:00:02.000Z INFO  C closed\n"
    )
    assert last_words(log) == (
        "B Exiting Kafka due to fatal exception "
        "(java.lang.RuntimeException: Stored node id 7 is not 1)"
    )


def test_without_an_error_the_last_line_is_quoted_and_silence_is_none():
    assert last_words("one\ntwo\n\n") == "two"
    assert last_words("\n") is None


def test_a_quote_is_bounded():
    assert len(last_words("x" * 10_000) or "") == 300
