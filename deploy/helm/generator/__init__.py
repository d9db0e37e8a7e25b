"""Files of the chart that are written from others: `make chart`. Not part of the connector."""
