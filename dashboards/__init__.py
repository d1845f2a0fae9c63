"""The browser side: pages about searches and losses, and the door to optuna-dashboard."""
