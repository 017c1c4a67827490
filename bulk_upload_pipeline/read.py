import pyarrow as pa
import pyarrow.csv as pc

from bulk_upload_pipeline.model import TextChunk


def read_chunks(path, layout, chunk_rows):
    names = [str(i) for i in range(len(layout.header))]
    t = pc.read_csv(
        path,
        pc.ReadOptions(column_names=names, skip_rows=1),
        pc.ParseOptions(newlines_in_values=True),
        pc.ConvertOptions(
            column_types={n: pa.string() for n in names}, strings_can_be_null=True, null_values=[""]
        ),
    )
    for at in range(0, len(t), chunk_rows):
        s = t.slice(at, chunk_rows).combine_chunks()
        yield TextChunk(s, pa.array(range(at + 1, at + 1 + len(s)), pa.int64()), (), path.stat().st_size)
