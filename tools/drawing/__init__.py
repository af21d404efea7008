"""Dashboards as SVG: panels of Grafana's JSON and Prometheus' samples go in, text comes out."""
