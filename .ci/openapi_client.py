"""Saves a draft with the generated Python client, at the address in the document that it was generated from."""

from save_draft_client import ApiClient, DraftsApi
from save_draft_client.exceptions import NotFoundException
from save_draft_client.models import ErrorResponse, SaveDraftRequest

URL = "https://capcut-mate.jcaigc.cn/openapi/capcut-mate/v1/get_draft?draft_id="

with ApiClient() as client:
    api = DraftsApi(client)

    for saved in ("created", "unchanged"):
        request = SaveDraftRequest(draft_url=URL + "2025092811473036584258")
        response = api.save_draft_with_http_info(request)
        assert response.data.draft_url == request.draft_url, response.data
        headers = {name.lower(): value for name, value in response.headers.items()}
        assert headers["draft-saved"] == saved, headers
        print(saved, headers["draft-version"])

    # The pattern of the document, which the client checks, accepts what the function accepts.
    other = "HTTPS://my_host.example/get_draft?draft_id=2025092811473036584258"
    assert api.save_draft(SaveDraftRequest(draft_url=other)).draft_url == other

    try:
        api.save_draft(SaveDraftRequest(draft_url=URL + "missing"))
    except NotFoundException as error:
        assert isinstance(error.data, ErrorResponse), error.data
        assert error.data.detail == "Draft does not exist", error.data
        print("not saved:", error.data.detail)
    else:
        raise AssertionError("a draft that does not exist must raise NotFoundException")
