"""The entry points on AWS Lambda."""
