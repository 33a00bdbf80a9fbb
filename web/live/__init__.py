"""The live feed: what was committed in the last second, pushed to every page."""
