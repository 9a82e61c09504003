"""What figures share, and the figures that are not the article's own."""
