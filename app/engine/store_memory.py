"""Memory that all stores of a worker share, so that it does not grow with its partitions."""

from __future__ import annotations

import rocksdict

from app.engine.cache import RowCache

DECODED_FACTOR = 16
"""Memory of a decoded row over its encoded bytes, as measured on large histograms."""
ARENA_BLOCK_BYTES = 16 << 10
"""A memtable takes its memory in such blocks."""


class StoreMemory:
    """Memory shared by all stores of a worker: three quarters cache, one quarter buffers.

    Beside it, decoded rows may take about as much again.
    """

    def __init__(self, total_bytes: int) -> None:
        self.cache = rocksdict.Cache(total_bytes * 3 // 4)
        self.rows = RowCache(total_bytes // DECODED_FACTOR)
        self.buffers = rocksdict.WriteBufferManager(total_bytes // 4, allow_stall=False)

    def options(self) -> rocksdict.Options:
        """Options of a database or column family on the shared memory."""
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(self.cache)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        # Else a file has one index and one filter, as large at 64 MiB of file as a shard of
        # the cache: neither stays there, and each read of a row loads both anew.
        table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
        table.set_partition_filters(True)
        table.set_bloom_filter(10, False)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(self.buffers)
        options.set_write_buffer_size(8 << 20)
        # What a memtable takes counts in whole blocks: with blocks of a MiB each, those of a
        # few dozen tables pass what all may take, and every write begins by flushing one.
        options.set_arena_block_size(ARENA_BLOCK_BYTES)
        options.set_max_write_buffer_number(2)
        options.set_max_background_jobs(2)
        options.set_max_open_files(64)
        options.set_keep_log_file_num(2)
        options.set_max_total_wal_size(16 << 20)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        return options
