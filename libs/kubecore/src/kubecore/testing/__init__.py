"""Test doubles of kubecore that other packages' tests use too; services never import them."""
