import json
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.broker.download import resolve
from app.broker.errors import DownloadError
from app.broker.jars import KAFKA, read_index, write_index

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>{g}</groupId><artifactId>{a}</artifactId><version>{v}</version>
<dependencies>{deps}</dependencies></project>"""
LOG4J = (
    "<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId>"
    "<version>2.0</version></dependency>"
)


def jar_bytes(tmp_path):
    path = tmp_path / "any.jar"
    with zipfile.ZipFile(path, "w") as jar:
        jar.writestr("A.class", b"x" * 100)
    return path.read_bytes()


@contextmanager
def repository(files, cut=""):
    """A Maven repository on loopback; the file whose path contains ``cut`` breaks off half way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut and cut in self.path else body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield {"central": f"http://127.0.0.1:{server.server_port}"}
        finally:
            server.shutdown()
            thread.join()


def small_kafka(tmp_path):
    jar = jar_bytes(tmp_path)
    logs = "org.apache.logging.log4j"
    files = {}
    for g, a, v, deps in (("k", "kafka", "1", LOG4J), (logs, "log4j-core", "2.0", "")):
        base = f"/{g.replace('.', '/')}/{a}/{v}/{a}-{v}"
        files[f"{base}.pom"] = POM.format(g=g, a=a, v=v, deps=deps).encode()
        files[f"{base}.jar"] = jar
    files["/org/apache/logging/log4j/log4j-slf4j-impl/2.0/log4j-slf4j-impl-2.0.jar"] = jar
    return files


def test_the_jars_come_with_the_log_binding_of_the_same_version_and_then_offline(tmp_path):
    told = []
    cache = tmp_path / "m2"
    with repository(small_kafka(tmp_path)) as there:
        jars = resolve("k:kafka:1", told.append, cache=cache, repositories=there)
    names = ["kafka-1.jar", "log4j-core-2.0.jar", "log4j-slf4j-impl-2.0.jar"]
    assert [jar.name for jar in jars] == names
    assert told[-1] == "Apache Kafka: 3 of 3 jars, 0 MB"
    closed = {"central": "http://127.0.0.1:1"}
    assert resolve("k:kafka:1", told.append, cache=cache, repositories=closed) == jars
    assert not list(cache.glob(".headrace-*"))


def test_an_artifact_that_is_not_there_is_named(tmp_path):
    files = small_kafka(tmp_path)
    del files["/org/apache/logging/log4j/log4j-core/2.0/log4j-core-2.0.jar"]
    with (
        repository(files) as there,
        pytest.raises(DownloadError, match=r"log4j-core.*2\.0.*it is not there"),
    ):
        resolve("k:kafka:1", print, cache=tmp_path / "m2", repositories=there)


def test_without_a_network_the_error_names_the_first_artifact(tmp_path):
    with pytest.raises(DownloadError, match=r"k:kafka.*1.*ConnectionError.*HEADRACE_BROKER"):
        resolve("k:kafka:1", print, cache=tmp_path, repositories={"c": "http://127.0.0.1:1"})


def test_a_download_that_breaks_off_leaves_nothing_behind_and_is_made_again(tmp_path):
    files = small_kafka(tmp_path)
    cache = tmp_path / "m2"
    with repository(files, cut="kafka-1.jar") as there, pytest.raises(DownloadError, match="kafka"):
        resolve("k:kafka:1", print, cache=cache, repositories=there)
    assert not list(cache.rglob("kafka-1.jar"))
    with repository(files) as there:
        assert len(resolve("k:kafka:1", print, cache=cache, repositories=there)) == 3


def test_a_jar_another_program_left_cut_is_replaced(tmp_path):
    cache = tmp_path / "m2"
    cut = cache / "k" / "kafka" / "1" / "kafka-1.jar"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"PK\x03\x04 half")
    with repository(small_kafka(tmp_path)) as there:
        resolve("k:kafka:1", print, cache=cache, repositories=there)
    assert zipfile.is_zipfile(cut)


def test_a_damaged_descriptor_in_the_cache_says_what_to_delete(tmp_path):
    pom = tmp_path / "k" / "kafka" / "1" / "kafka-1.pom"
    pom.parent.mkdir(parents=True)
    pom.write_text("<project>")
    with pytest.raises(DownloadError, match=r"damaged.*delete"):
        resolve("k:kafka:1", print, cache=tmp_path, repositories={"c": "http://127.0.0.1:1"})


def test_the_list_is_believed_only_while_every_jar_is_there_and_whole(tmp_path):
    index, jar = tmp_path / "jars.json", tmp_path / "a.jar"
    assert read_index(index) is None
    jar.write_bytes(b"12345")
    write_index(index, [jar])
    assert read_index(index) == [jar]
    jar.write_bytes(b"123")
    assert read_index(index) is None
    jar.unlink()
    assert read_index(index) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps({"artifact": KAFKA, "jars": []}), '{"artifact": "k:a:1"}']
)
def test_a_list_that_is_damaged_or_of_another_kafka_is_not_believed(tmp_path, text):
    index = tmp_path / "jars.json"
    index.write_text(text)
    assert read_index(index) is None
