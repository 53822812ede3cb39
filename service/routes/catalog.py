"""GET /catalog: what this deployment offers."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from service.contracts.catalog import DEFAULT_MODEL, METHODS, Ability, Method
from service.contracts.delivery import DATA_MINING, EXIF_POLICIES, FORMATS
from service.contracts.pictures import READ
from service.contracts.plan import MAX_STEPS
from service.contracts.renditions import MAX_RENDITIONS
from service.dependencies import Reading, TheHouse
from service.problems import documented

router = APIRouter(tags=["catalog"])


class CatalogModel(BaseModel):
    name: str
    kind: str
    abilities: tuple[Ability, ...]
    size: int | None
    licence: str
    description: str
    present: bool
    how_to_get: str | None = None


class Limits(BaseModel):
    max_upload_bytes: int
    max_pixels: int
    max_steps: int
    max_queue_depth: int
    reads: tuple[str, ...]
    formats: tuple[str, ...]
    exif: tuple[str, ...]
    data_mining: tuple[str, ...]
    max_sizes: int
    signing: bool


class Catalog(BaseModel):
    methods: list[Method]
    models: list[CatalogModel]
    default_model: str
    limits: Limits


@router.get(
    "/catalog",
    operation_id="get_catalog",
    summary="Methods, presets, models, limits",
    responses=documented(503),
    dependencies=[Reading],
)
def get_catalog(house: TheHouse) -> Catalog:
    """A model that is not present can be listed but not asked for; `how_to_get` says what its operator must do."""
    missing = house.queue.missing_models()
    settings = house.settings
    return Catalog(
        methods=list(METHODS.values()),
        models=[
            CatalogModel(
                name=model.name,
                kind=model.kind,
                abilities=model.abilities,
                size=model.size,
                licence=model.licence,
                description=model.description,
                present=model.name not in missing,
                how_to_get=missing.get(model.name),
            )
            for model in house.models.values()
        ],
        default_model=DEFAULT_MODEL,
        limits=Limits(
            max_upload_bytes=settings.max_upload_bytes,
            max_pixels=settings.max_pixels,
            max_steps=MAX_STEPS,
            max_queue_depth=settings.max_queue_depth,
            reads=READ,
            formats=FORMATS,
            exif=EXIF_POLICIES,
            data_mining=DATA_MINING,
            max_sizes=MAX_RENDITIONS,
            signing=settings.c2pa_certificate is not None,
        ),
    )
