"""Teachers: who looks at an agent's episodes and rewrites the skills that it was shown."""

from masa_training.teacher.operators import OperatorTeacher
from masa_training.teacher.protocol import Asked, Rewrite, Seen, Teacher, TeacherError
from masa_training.teacher.symptoms import SYMPTOMS, attribute, symptoms_of

__all__ = [
    "SYMPTOMS",
    "Asked",
    "OperatorTeacher",
    "Rewrite",
    "Seen",
    "Teacher",
    "TeacherError",
    "attribute",
    "symptoms_of",
]
