"""Microsoft Graph and its sign-in, as a source of pages. Only here: msal and aiohttp's client."""
