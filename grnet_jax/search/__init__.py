"""From images to features to scores: embedding, storing, ranking, reranking and post-processing."""
