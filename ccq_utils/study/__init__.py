"""What every notebook opens: vectors, scores, intervals, claims, figures."""
