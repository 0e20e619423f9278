"""Looks into pages of a report."""

import json
import re


def plots_of(page):
    return {
        name: json.loads(text)
        for name, text in re.findall(r'<script type="application/json" data-plot="([^"]+)-plot">(.*?)</script>', page)
    }
