"""Starts the AWS emulator `ministack` on a free port of 127.0.0.1, with TLS, and prints the port.

Arguments: the certificate file and the key file.

`ministack` 1.5.33 lacks the features below, which are added here. A check that depends on one of them
proves the text of the template, not how AWS reads it.
"""

import os
import re
import socket
import sys

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
port = listener.getsockname()[1]
# Both are read when the modules are imported.
os.environ["GATEWAY_PORT"] = str(port)
os.environ["AWS_ENDPOINT_URL"] = f"https://127.0.0.1:{port}"

import asyncio  # noqa: E402

from hypercorn.asyncio import serve  # noqa: E402
from hypercorn.config import Config  # noqa: E402
from ministack.app import app  # noqa: E402
from ministack.core import iam_actions, iam_evaluator  # noqa: E402
from ministack.core.iam_evaluator import enforce  # noqa: E402
from ministack.core.responses import get_region  # noqa: E402
from ministack.core.router import extract_access_key_id  # noqa: E402
from ministack.services import apigateway_v1 as api_gateway  # noqa: E402
from ministack.services import lambda_svc, s3, waf  # noqa: E402
from ministack.services.cloudformation import provisioners  # noqa: E402


def gap_any_methods():
    """The import of an OpenAPI document skips `x-amazon-apigateway-any-method`."""
    original = api_gateway._import_path_item

    def import_path_item(api_id, path, item, *rest):
        names = {"x-amazon-apigateway-any-method": "any"}
        original(api_id, path, {names.get(method, method): value for method, value in item.items()}, *rest)

    api_gateway._OPENAPI_HTTP_METHODS.add("any")
    api_gateway._import_path_item = import_path_item


def gap_gateway_responses():
    """The import skips `x-amazon-apigateway-gateway-responses`."""
    original = api_gateway._import_rest_api

    def import_rest_api(document, *rest):
        api_id = original(document, *rest)
        for kind, response in document.get("x-amazon-apigateway-gateway-responses", {}).items():
            status, _, body = api_gateway._put_gateway_response(api_id, kind, response)
            if status != 201:
                raise ValueError(f"gateway response {kind}: {body!r}")
        return api_id

    api_gateway._import_rest_api = import_rest_api


def gap_conditions_of_writes():
    """Policies do not have the condition keys `s3:if-none-match` and `s3:ObjectCreationOperation`."""
    original = iam_actions._s3_object_context

    def s3_object_context(action, query, path, headers):
        context = original(action, query, path, headers)
        if action == "s3:PutObject":
            step_of_an_upload = "uploads" in query or "partNumber" in query
            context["s3:ObjectCreationOperation"] = "false" if step_of_an_upload else "true"
            if headers.get("if-none-match"):
                context["s3:if-none-match"] = headers["if-none-match"]
        return context

    iam_actions._s3_object_context = s3_object_context


def gap_principal_arn():
    """The condition key `aws:PrincipalArn` of a session has the session in place of its role."""
    original = iam_evaluator._resolve_condition_key

    def resolve_condition_key(key, context):
        value = original(key, context)
        if key.lower() != "aws:principalarn":
            return value
        return re.sub(r"^arn:aws:sts::(\d+):assumed-role/([^/]+)/.*", r"arn:aws:iam::\1:role/\2", value)

    iam_evaluator._resolve_condition_key = resolve_condition_key


def gap_missing_keys():
    """A missing key is answered with 404 to callers without `s3:ListBucket` too. S3 answers them with 403."""
    for name in ("_get_object", "_head_object"):
        original = getattr(s3, name)

        def read_object(bucket, key, headers=None, query=None, original=original):
            response = original(bucket, key, headers, query)
            if response[0] == 404:
                caller = extract_access_key_id(headers or {}, query or {})
                arn, context = f"arn:aws:s3:::{bucket}", {"s3:prefix": key}
                if enforce(caller, "s3:ListBucket", "s3", get_region(), resource_arn=arn, service_context=context):
                    return s3._error("AccessDenied", "Access Denied", 403, key)
            return response

        setattr(s3, name, read_object)


def gap_dead_letter_config():
    """CloudFormation ignores `DeadLetterConfig` of a function."""
    patch_handler(
        "AWS::Lambda::Function",
        lambda name, properties: lambda_svc._functions[name]["config"].update(
            DeadLetterConfig=properties.get("DeadLetterConfig")
        ),
    )


def gap_access_log_setting():
    """CloudFormation ignores `AccessLogSetting` of a stage. The emulator writes no access logs."""

    def store(name, properties):
        setting = properties.get("AccessLogSetting", {})
        api_gateway._stages_v1[properties["RestApiId"]][name]["accessLogSettings"] = {
            "destinationArn": setting.get("DestinationArn"),
            "format": setting.get("Format"),
        }

    patch_handler("AWS::ApiGateway::Stage", store)


def gap_web_acl_association():
    """CloudFormation does not have `AWS::WAFv2::WebACLAssociation`."""

    def create(logical_id, properties, stack):
        status, _, body = waf._associate_web_acl(properties)
        if status != 200:
            raise ValueError(f"web ACL: {body!r}")
        return properties["ResourceArn"], {}

    def delete(physical_id, properties):
        waf._disassociate_web_acl(properties)

    provisioners._RESOURCE_HANDLERS["AWS::WAFv2::WebACLAssociation"] = {"create": create, "delete": delete}


def patch_handler(kind, store):
    """Calls `store` with the physical ID and the properties after a resource was created or updated."""
    handlers = provisioners._RESOURCE_HANDLERS[kind]
    create, update = handlers["create"], handlers["update"]

    def patched_create(logical_id, properties, *rest, **options):
        result = create(logical_id, properties, *rest, **options)
        store(result[0], properties)
        return result

    def patched_update(physical_id, old, new, *rest, **options):
        result = update(physical_id, old, new, *rest, **options)
        store(result[0], new)
        return result

    handlers.update(create=patched_create, update=patched_update)


def main():
    gaps = [value for name, value in globals().items() if name.startswith("gap_")]
    for gap in gaps:
        gap()
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.certfile, config.keyfile = sys.argv[1:]
    config.loglevel = "WARNING"
    print(port, flush=True)
    asyncio.run(serve(app, config))


main()
