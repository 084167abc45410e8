"""What a tutorial would write: FastAPI, a JSON body as lists, Keras' ``model(x)``. ``MODEL`` names the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from fastapi import FastAPI

app = FastAPI()
model = keras.models.load_model(Path(os.environ["MODEL"]) / "model.keras", safe_mode=True)


@app.post("/v1/models/lenet:predict")
def predict(body: dict[str, Any]) -> dict[str, Any]:
    return {"predictions": np.asarray(model(np.asarray(body["instances"], np.float32))).tolist()}
