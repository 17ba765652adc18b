"""Base models, their vectors and the concat."""
