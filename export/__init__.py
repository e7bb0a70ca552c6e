"""The road on the workstation: fold, trace, simplify, quantize, legalise, lint, parity."""
