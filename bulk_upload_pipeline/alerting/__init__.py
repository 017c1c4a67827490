"""How `alerts` reach somebody: `messages` puts them into words, `channels` sends them."""
