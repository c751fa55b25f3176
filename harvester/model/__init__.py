"""Values and their text forms: no asyncio, no clock, no environment, no network."""
