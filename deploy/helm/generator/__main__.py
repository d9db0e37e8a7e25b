"""Writes the files of the chart that come from others; see `make chart`."""

from deploy.helm.generator.files import CHART, generated

if __name__ == "__main__":
    for name, content in generated().items():
        path = CHART / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
