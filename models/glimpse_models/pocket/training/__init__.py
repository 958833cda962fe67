"""How pocket and its glimpse are trained."""
