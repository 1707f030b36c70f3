"""The commands of `recsys`, by what they are about; `pipeline.cli` puts them together."""
