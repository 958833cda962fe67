"""The pictures and questions that pocket is trained and judged on."""
