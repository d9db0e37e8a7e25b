"""The dashboards as code: `make dashboards` writes them to deploy/grafana/dashboards/. Not part of the connector."""
