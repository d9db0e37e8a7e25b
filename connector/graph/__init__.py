"""Client of Microsoft Graph and its sign-in, as a source of pages. Only this package uses msal and aiohttp's client."""
