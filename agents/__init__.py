"""One package per capability: pure logic and a thin agent."""
