"""The STIV diffusion transformer, its objective, guidance and samplers."""
