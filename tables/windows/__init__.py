"""Windows over streams: their declaration, their state, their rows and their answers."""
