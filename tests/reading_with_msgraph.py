"""Read all pages of a range with Microsoft's own packages and print the rows as JSON, one per line.

Runs in the environment of `tests.environments`. The arguments are the address of the simulator, its CA, tenant,
client, secret, and the range. If the range is written with `Z`, the link is built here, else by the SDK.
"""

import asyncio
import ssl
import sys
from datetime import datetime

from azure.identity import ClientSecretCredential  # type: ignore[import-not-found]
from httpx import AsyncClient  # type: ignore[import-not-found, unused-ignore]
from kiota_authentication_azure.azure_identity_authentication_provider import (  # type: ignore[import-not-found]
    AzureIdentityAuthenticationProvider,
)
from kiota_serialization_json.json_serialization_writer import (  # type: ignore[import-not-found]
    JsonSerializationWriter,
)
from msgraph import GraphRequestAdapter, GraphServiceClient  # type: ignore[import-not-found]
from msgraph.generated.models.o_data_errors.o_data_error import ODataError  # type: ignore[import-not-found]
from msgraph_core import GraphClientFactory  # type: ignore[import-not-found]


async def read(url: str, ca: str, tenant: str, client: str, secret: str, start: str, end: str) -> int:
    """Print the rows; return the exit code: 1 if Graph refuses the range."""
    credential = ClientSecretCredential(
        tenant, client, secret, authority=url, disable_instance_discovery=True, connection_verify=ca
    )
    sign_in = AzureIdentityAuthenticationProvider(credential, scopes=["https://graph.microsoft.com/.default"])
    root = f"{url}/v1.0"
    async with AsyncClient(verify=ssl.create_default_context(cafile=ca)) as http:
        adapter = GraphRequestAdapter(sign_in, GraphClientFactory.create_with_default_middleware(client=http))
        adapter.base_url = root
        function = GraphServiceClient(request_adapter=adapter).communications.call_records
        request = function.microsoft_graph_call_records_get_direct_routing_calls_with_from_date_time_with_to_date_time(
            datetime.fromisoformat(start), datetime.fromisoformat(end)
        )
        if start.endswith("Z"):
            name = f"getDirectRoutingCalls(fromDateTime={start},toDateTime={end})"
            request = request.with_url(f"{root}/communications/callRecords/{name}")
        try:
            page = await request.get()
            print_rows(page)
            while page.odata_next_link:
                page = await request.with_url(page.odata_next_link).get()
                print_rows(page)
        except ODataError as error:
            sys.stderr.write(f"{error.response_status_code} {error.error.code}: {error.error.message}\n")
            return 1
    return 0


def print_rows(page: object) -> None:
    """Print the rows of a page as the SDK writes them."""
    for row in page.value:  # type: ignore[attr-defined]
        writer = JsonSerializationWriter()
        row.serialize(writer)
        sys.stdout.write(writer.get_serialized_content().decode() + "\n")


if __name__ == "__main__":
    sys.exit(asyncio.run(read(*sys.argv[1:])))
