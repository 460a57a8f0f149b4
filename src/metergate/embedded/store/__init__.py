"""The one room with SQL in it. Each module lists its tables in ``SCHEMA``."""
