"""Sessions as steps: intervals beside the source, merged and closed where the user lives."""
