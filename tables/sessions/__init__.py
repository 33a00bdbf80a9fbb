"""Sessions: what a user did without a pause longer than a gap, as mergeable intervals."""
