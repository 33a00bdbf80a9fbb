"""What a broker that ended during its start has died of, read from its log: pure."""

from __future__ import annotations

import re

_LEVEL = re.compile(r"^\S+ (ERROR|FATAL) +(?P<rest>.*)$")
_THROWN = re.compile(r"^[\w.$]+(Exception|Error)\b")
_JVM = re.compile(r"^(Error|Exception in thread|Caused by:|#  )")
_QUOTE_MAX = 300

_CAUSES = (
    (
        re.compile(r"No space left on device|Disk quota exceeded"),
        "the disk is full: free some space and start again, nothing committed is lost",
    ),
    (
        re.compile(r"Address already in use|Socket server failed to bind"),
        "its port was taken meanwhile: stop the program that uses it and start again",
    ),
    (
        re.compile(r"Failed to acquire lock on file"),
        "another Kafka runs on the same data folder: stop it and start again",
    ),
    (
        re.compile(
            r"OutOfMemoryError|Could not reserve enough space|insufficient memory"
            r"|Cannot allocate memory"
        ),
        "memory ran out (it needs about 500 MB): free some and start again",
    ),
    (
        re.compile(r"UnsupportedClassVersionError"),
        "the Java found is too old: put Java 17 or newer on the PATH",
    ),
    (
        re.compile(r"UnsupportedVersionException: Can't read version"),
        "a newer Kafka wrote its data, which this one cannot read: set HEADRACE_HOME to another "
        "folder, or go back to the Headrace that wrote it",
    ),
    (
        re.compile(r"Permission denied|AccessDeniedException|Read-only file system"),
        "it may not write its data folder: give the folder back to your user, or set HEADRACE_HOME",
    ),
)


def cause_of_exit(log: str) -> str | None:
    """Known cause with what to do about it, or None; ``log`` holds the last start only."""
    return next((advice for pattern, advice in _CAUSES if pattern.search(log)), None)


def last_words(log: str) -> str | None:
    """The last error of Kafka or of the JVM with what was thrown, at most 300 characters."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    thrown = ""
    for line in reversed(lines):
        if match := _LEVEL.match(line):
            return f"{match['rest']}{thrown}"[:_QUOTE_MAX]
        if _JVM.match(line):
            return line[:_QUOTE_MAX]
        thrown = f" ({line})" if _THROWN.match(line) else ""
    return lines[-1][:_QUOTE_MAX] if lines else None
