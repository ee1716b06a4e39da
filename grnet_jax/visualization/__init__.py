"""Result pages, explanations and plots."""
