#!/usr/bin/env python3
"""What a million saves cost, and what the services allow a second.

    benches/cost.py [--memory-mb 512] [--billed-ms 60] [--cold 0.01 --cold-ms 150]

Prices are those of US East (N. Virginia), on demand, first tier, without free
tiers, from the AWS pages that each row names. The durations are assumptions:
put in what your dashboard says.
"""

import argparse

# Dollars.
LAMBDA_REQUEST = 0.20 / 1e6  # "AWS Lambda Pricing"
LAMBDA_ARM_GB_SECOND = 0.0000133334  # the same, Arm
REST_API_CALL = 3.50 / 1e6  # "Amazon API Gateway Pricing", REST APIs, first 333 million
S3_GET = 0.0004 / 1e3  # "Amazon S3 pricing", S3 Standard, GET
S3_PUT = 0.005 / 1e3  # the same, PUT
S3_GB_MONTH = 0.023  # the same, first 50 TB
LOGS_GB = 0.50  # "Amazon CloudWatch Pricing", logs collected

# A second.
S3_PUTS = 3_500  # "Best practices design patterns: optimizing Amazon S3 performance"
S3_GETS = 5_500  # the same; both for each partitioned prefix
API_CALLS = 10_000  # "Amazon API Gateway quotas", account and Region
LAMBDA_CONCURRENCY = 1_000  # "Lambda quotas", account and Region, to begin with


def main():
    options = argparse.ArgumentParser(description="Cost and limits, on paper.")
    options.add_argument("--memory-mb", type=int, default=512)
    options.add_argument("--billed-ms", type=float, default=60, help="of a warm save")
    options.add_argument("--cold", type=float, default=0.01, help="the share of cold starts")
    options.add_argument("--cold-ms", type=float, default=150, help="billed more for one of them")
    options.add_argument("--log-bytes", type=int, default=1500, help="for each save")
    options.add_argument("--draft-kb", type=float, default=200, help="of one version")
    given = options.parse_args()

    saves = 1_000_000
    seconds = (given.billed_ms + given.cold * given.cold_ms) / 1e3
    rows = {
        "API Gateway, REST API calls": saves * REST_API_CALL,
        "S3, one PUT a save": saves * S3_PUT,
        "S3, one GET a save": saves * S3_GET,
        "Lambda, GB-seconds": saves * seconds * given.memory_mb / 1024 * LAMBDA_ARM_GB_SECOND,
        "Lambda, requests": saves * LAMBDA_REQUEST,
        "CloudWatch, logs": saves * given.log_bytes / 1e9 * LOGS_GB,
    }
    print(f"A million saves, {given.memory_mb} MB, {given.billed_ms:g} ms each:")
    for name, dollars in rows.items():
        print(f"  {dollars:7.2f} USD  {name}")
    print(f"  {sum(rows.values()):7.2f} USD  in all")
    stored = saves * given.draft_kb / 1e6
    print(f"Keeping a million versions of {given.draft_kb:g} KB: {stored * S3_GB_MONTH:.2f} USD a month")

    print("\nSaves a second, at most:")
    print(f"  {S3_PUTS:6}  S3, PUT under one partition of the key space")
    print(f"  {S3_GETS:6}  S3, GET under one partition of the key space")
    print(f"  {API_CALLS:6}  API Gateway, by its account quota")
    print(f"  {LAMBDA_CONCURRENCY / seconds:6.0f}  Lambda, by its first concurrency quota")


if __name__ == "__main__":
    main()
