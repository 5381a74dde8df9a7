"""SageMaker and S3 through boto3: the one package that knows it."""
