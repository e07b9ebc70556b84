"""A model one can talk to: the engine, its protocols, the page, and what others need to serve it."""
