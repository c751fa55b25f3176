"""The TMDB client: requests, retries, rate, and what a response means."""
