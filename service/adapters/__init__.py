"""The outside world behind the ports: Postgres, Solana, the system clock."""
