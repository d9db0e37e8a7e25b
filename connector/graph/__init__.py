"""Source of pages of call records from Microsoft Graph, including sign-in.

Only this package uses msal and the HTTP client of aiohttp.
"""
