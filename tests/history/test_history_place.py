"""Where the history may lie, and that no error repeats what is secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import SettingsError, load_settings
from tables.history.place import Bucket, cause, read_endpoint, read_place

SECRET = "hunter2"  # noqa: S105 - of nothing


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


def test_a_place_is_a_folder_or_a_bucket_with_its_prefix() -> None:
    assert read_place("/cold") == Path("/cold")
    assert read_place("s3://cold") == Bucket("cold")
    assert read_place("s3://cold-1/a/b=2/") == Bucket("cold-1", "a/b=2")
    assert str(read_place("s3://cold/a/b")) == "s3://cold/a/b"
    assert str(read_place("s3://cold")) == "s3://cold"


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3:///prefix",
        "s3://Cold/prefix",
        "s3://co/prefix",
        "s3://cold:9000/prefix",
        "s3://cold/a//b",
        "s3://cold/../b",
        "s3://cold/a b",
        "s3://cold/a?endpoint_override=x",
        "s3://cold/a#b",
        f"s3://key:{SECRET}@cold/a",
        "s3://[cold/a",
        "http://cold/a",
        "file:///cold",
        "gs://cold/a",
    ],
)
def test_what_is_no_place_stops_the_start_up_and_is_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("HEADRACE_HISTORY", text)
    with pytest.raises(SettingsError, match="history = ") as caught:
        load_settings()
    told = str(caught.value)
    assert "expected a folder or s3://bucket/prefix" in told or "AWS_ACCESS_KEY_ID" in told
    assert SECRET not in told


def test_endpoint_and_region_come_from_the_usual_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_HISTORY", "s3://cold/a")
    assert load_settings().history_place == Bucket("cold", "a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000/")
    assert load_settings().history_place == Bucket("cold", "a", "http://minio:9000", "us-east-1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    place = load_settings().history_place
    assert place == Bucket("cold", "a", "http://minio:9000", "eu-central-1")


@pytest.mark.parametrize(
    "endpoint", ["minio:9000", "ftp://minio", "http://", f"http://key:{SECRET}@minio", "http://m/a"]
)
def test_an_endpoint_that_is_none_is_refused_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert isinstance(load_settings().history_place, Path)
    monkeypatch.setenv("HEADRACE_HISTORY", "s3://cold/a")
    with pytest.raises(
        SettingsError, match="AWS_ENDPOINT_URL: expected http://host:port"
    ) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    with pytest.raises(ValueError, match="expected"):
        read_endpoint(endpoint)


def test_of_a_stores_answer_only_code_and_call_are_told() -> None:
    text = (
        f"When uploading key 'a' in bucket 'b': AWS Error UNKNOWN (HTTP status 418) during "
        f"PutObject operation: the key {SECRET} is unknown"
    )
    assert cause(text) == "UNKNOWN (HTTP status 418) during PutObject"
    assert cause("first line\nsecond") == "first line"
