"""Wire objects of x402 payments on Solana: amounts, networks, direct payments, scheme `exact`."""
