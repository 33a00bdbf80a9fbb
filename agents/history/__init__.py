"""Keeps the history: committed records become Parquet files, small files become large ones.

Nobody asks the archiver where it stands, and it remembers nothing: the names of the files
say what is archived, and whatever they do not say is read from the log. A crash at any
point, a full disk, a partition that moves, an archiver that wakes up late: all go the same
way, which is to look at the names again. ``pending`` collects, ``files`` writes,
``progress`` decides where to go on, ``archiver`` is the thread that does it all,
``compaction`` merges (``groups`` says where a row group ends), ``export`` copies out.
"""
