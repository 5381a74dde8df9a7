"""SageMaker and S3 through boto3. No other package may import boto3."""
