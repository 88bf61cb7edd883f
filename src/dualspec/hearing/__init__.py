"""What an ear would say: interaural cues, and a network that hears the azimuth."""
