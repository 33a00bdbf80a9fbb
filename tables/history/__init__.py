"""The cold part of the platform's memory: Parquet files of closed windows, sessions, entity events.

A dataset is the archive of one topic. Its files lie in
``<history>/<namespace or default>/<dataset>/day=YYYY-MM-DD/``; each holds a contiguous range
of offsets of one partition and says so in its name, so the list of names alone tells what
is archived, which file holds an offset, and where an archiver goes on. ``names`` reads and
writes names, ``ranges`` decides which file speaks for which offsets, ``datasets`` is what
the rows are, ``store`` is what they need of their ``place``, which is a ``folder`` or has
``objects`` (``stores`` chooses), ``query`` makes SQL, ``duck`` and ``reader`` run it,
``columns`` chooses the windows of one key, ``span`` joins an answer from files with one from state.
"""
