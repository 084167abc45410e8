#!/bin/sh
# What the image tensorflow/serving starts with: its default ports and one model, unless --model_config_file is given.
exec tensorflow_model_server --port=8500 --rest_api_port=8501 \
    --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" "$@"
