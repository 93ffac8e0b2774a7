"""Parts that API and pages share: routing, access, errors, OpenAPI, pagination."""
