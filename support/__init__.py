"""What the article does not talk about: what makes its four scripts run today, safe and fast."""
