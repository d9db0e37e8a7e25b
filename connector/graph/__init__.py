"""Source of pages from Microsoft Graph, with sign-in. Only this package uses msal and the client of aiohttp."""
