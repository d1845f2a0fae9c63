"""What proposes programs and learns from their results."""
